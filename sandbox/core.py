"""The errors of the machine: what fails here is nobody's mistake in the episode.

A container that dies, a page that crashes, an endpoint that times out. An episode in which one of these is raised
ends as ``Stop.FAILED``: it is counted, shown, never scored and never trained on.
"""


class MachineError(RuntimeError):
    """Something under the environment or the agent broke; the episode says nothing about the agent."""


class SandboxError(MachineError):
    """A sandbox or container did not do what it was asked to."""


class EndpointError(MachineError):
    """A model's endpoint gave no usable answer after the last try."""


class BrowserError(MachineError):
    """A browser page crashed or stopped answering."""
