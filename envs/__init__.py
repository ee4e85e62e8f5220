"""The environments and what is recorded of them; importing registers the ids."""

from milepost.envs import ladder as ladder
from milepost.envs import swe as swe
from milepost.envs import textworld as textworld
from milepost.envs import tooldesk as tooldesk
