"""Loaded by every Python of a test, workers of launchers included: the small config tree, and an experiment that needs no torch."""

import importlib.abc
import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


class _Fake(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "m3tl_cli.experiment":
            return importlib.util.spec_from_file_location(name, HERE / "fake_experiment.py")
        if name == "m3tl_cli.config.paths":
            spec = importlib.util.spec_from_file_location(name, HERE.parents[3] / "m3tl_cli" / "config" / "paths.py")
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                module.conf_dir = lambda: HERE.parent / "conf"

            spec.loader.exec_module = exec_module
            return spec
        return None


sys.meta_path.insert(0, _Fake())
