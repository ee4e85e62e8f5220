"""The server where there are no namespaces: fenced in by Landlock and seccomp, and each command once more.

The second fence keeps a command from signalling, tracing and reading the server that started it.
"""

from __future__ import annotations

import os
import sys

from milepost.sandbox.guest import confine, exec_server, landlock, processes, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any


def enclose(config: Mapping[str, Any]) -> None:
    """Fence this process in, as the settings want it."""
    without: Collection[str] = config["without"]
    uses = landlock.known(5)
    rules = [(path, landlock.READ) for path in config["read"]] + [
        (path, uses & ~landlock.MAKE_CHAR & ~landlock.MAKE_BLOCK) for path in config["write"]
    ]
    rules.append(("/proc", landlock.WRITE_FILE))  # to say of each command whom the kernel kills first
    rules += [(path, landlock.READ_FILE | landlock.WRITE_FILE | landlock.IOCTL_DEV) for path in config["devices"]]
    if "landlock" not in without:
        landlock.enter(uses, rules, tcp=config["seccomp"]["network"] != "any", scopes="signals" not in without)
    confine.drop_capabilities()
    confine.no_new_privileges()
    if "seccomp" not in without:
        program = confine.filtered(machine=os.uname().machine, guard=None, without=without, **config["seccomp"])
        confine.seccomp(program)


def main() -> None:
    """Serve as the process that the host started; the settings are the server's, and:

    read        paths that may be read, and programs in them run
    write       folders in which everything may be done but to make devices
    devices     devices that may be read and written
    seccomp     keywords of ``confine.filtered``
    groups      descriptors for ``confine.join``
    probe       whether to find out what can be, instead
    """
    config = wire.loads(sys.argv[1])
    if config["probe"]:
        enclose(config)
        os.write(1, wire.dumps({"abi": landlock.version()}).encode())
        return
    confine.join(config["groups"])
    pipe = exec_server.take_pipes()
    processes.guard(config["parent"], hidden="dumpable" not in config["without"])
    processes.adopt()
    if config["rlimits"]:
        import resource  # noqa: F401  once, not in every command
    try:
        fence = landlock.for_commands(config["fence"])  # it looks at what the server does not see from behind its own
        enclose(config)
        exec_server.serve(config, pipe, fence)
    except OSError as error:
        pipe.send({"failed": str(error)})
    except EOFError:
        os._exit(0)
    os._exit(1)
