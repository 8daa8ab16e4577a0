"""A wandb that records what it is told, and fails when told to. It needs no service and takes no time."""

import os
import sys
import types
from pathlib import Path


class Run:
    def __init__(self, module, settings):
        self.module, self.settings = module, settings
        self.history, self.summary, self.exit_code, self.artifacts = [], {}, None, []
        self.dir = str(Path(settings["dir"]) / "wandb" / f"{settings['mode']}-run" / "files")
        self.url = f"https://wandb.example/{settings['project']}/runs/1"

    def define_metric(self, *args, **kwargs):
        pass

    def log_artifact(self, artifact):
        self.artifacts.append(artifact)

    @property
    def id(self):
        return self.settings["id"]

    @property
    def offline(self):
        return self.settings["mode"] == "offline"

    def log(self, values):
        self.module.fail_if("log")
        self.history.append(values)

    def finish(self, exit_code):
        self.module.fail_if("finish")
        self.exit_code = exit_code


class Artifact:
    def __init__(self, name, kind):
        self.name, self.type, self.folders = name, kind, []

    def add_dir(self, folder, **how):
        self.folders.append((folder, how))


class FakeWandb(types.ModuleType):
    """Args: fails: what raises: "login", "init" (online only), "log" or "finish"."""

    def __init__(self, fails=()):
        super().__init__("wandb")
        self.fails, self.runs, self.run = set(fails), [], None

    def fail_if(self, action):
        if action in self.fails:
            raise ConnectionError(f"{action}: server\ngone")

    def setup(self, settings):
        pass

    def login(self, *, prompt, verify):
        assert not prompt  # nobody is asked
        assert not verify  # nor is a server
        self.fail_if("login")
        return "WANDB_API_KEY" in os.environ

    def init(self, **settings):
        if settings["mode"] == "online":
            self.fail_if("init")
        self.runs.append(Run(self, settings))
        return self.runs[-1]

    def Settings(self, **settings):
        return settings

    def Artifact(self, name, kind):
        return Artifact(name, kind)

    def Image(self, image):
        return ("image", image.size)

    def Table(self, columns, data):
        return ("table", columns, data)


def install(monkeypatch, *, fails=(), key=True):
    """The fake in place of wandb, with an API key unless told otherwise."""
    module = FakeWandb(fails)
    monkeypatch.setitem(sys.modules, "wandb", module)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    return module
