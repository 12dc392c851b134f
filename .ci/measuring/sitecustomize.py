"""Import what is not measured untraced: a measured run of the tests has this folder on Python's path.

Coverage's tracer is called for every line of every module, and only then leaves out those that are not ours. With it
the imports of torch, MLflow and Prefect, with which most processes of the tests begin, take half as long again.
"""

import importlib.machinery
import sys
import types
from collections.abc import Sequence

_MEASURED = {"recsys_core", "tasks", "flows"}


class _Untraced:
    """Finds modules as Python does; while one is executed that is not measured, coverage's tracer of the thread is off.

    What imports it is traced before and after: the tracer sees its frames begin and end.
    """

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        tracer = sys.gettrace()
        # Inside of an import that is untraced there is none.
        if type(tracer).__name__ != "CTracer" or name.partition(".")[0] in _MEASURED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
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
