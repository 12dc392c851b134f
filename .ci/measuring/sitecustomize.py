"""Import what is not measured untraced: a measured run of the tests has this folder on Python's path.

Coverage's tracer is called for every line of every module, and only then leaves out those that are not ours. With it
the imports of torch, MLflow and Prefect, with which most processes of the tests begin, take half as long again.
"""

import importlib.machinery
import sys
import sysconfig
import types
from collections.abc import Sequence

# Where Python's own modules and the installed packages are. None of them imports ours when it is imported.
_OTHERS = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


class _Untraced:
    """Finds others' modules as Python does; while one is executed, coverage's tracer of the thread is off.

    What imports it is traced before and after: the tracer sees its frames begin and end.
    """

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        # Inside of an import that is untraced there is no tracer.
        if type(sys.gettrace()).__name__ != "CTracer":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None or not (spec.origin or "").startswith(_OTHERS):
            return None
        execute = spec.loader.exec_module

        def untraced(module: types.ModuleType) -> None:
            tracer = sys.gettrace()
            if type(tracer).__name__ != "CTracer":
                execute(module)
                return
            tracer.stop()
            try:
                execute(module)
            finally:
                tracer.start()

        spec.loader.exec_module = untraced
        return spec


sys.meta_path.insert(0, _Untraced)
