"""One file a task; each registers itself with `lary_envs.spec.register_task`."""
