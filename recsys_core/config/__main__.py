"""The process of `model_check`, which imports torch."""

from recsys_core.imports import importing

with importing():
    from recsys_core.config import building

if __name__ == "__main__":
    building.main()
