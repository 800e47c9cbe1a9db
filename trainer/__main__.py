"""`python -m trainer`, or this file by its path, is the `trainer` command."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # the current folder, or the package's own: a random.py there is nobody's but its user's

if not __package__:
    # By its path, as our children are: this package is meant, whatever else is called trainer.
    from importlib.util import module_from_spec, spec_from_file_location

    _folder = __file__.removesuffix("__main__.py")
    _spec = spec_from_file_location(
        "trainer", f"{_folder}__init__.py", submodule_search_locations=[_folder.rstrip("/")]
    )
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules["trainer"] = module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["trainer"])

from trainer.cli import program

if __name__ == "__main__":
    raise SystemExit(program())
