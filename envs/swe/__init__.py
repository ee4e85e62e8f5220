"""Software engineering: bugs in real packages, mended in a sandbox, graded where nothing can be forged."""

import gymnasium as gym

gym.register("milepost/SWE-v0", entry_point=f"{__name__}.env:SweEnv", max_episode_steps=30)
