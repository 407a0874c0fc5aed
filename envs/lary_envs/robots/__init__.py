"""One file a robot; each registers itself with `lary_envs.robot.register_robot`."""
