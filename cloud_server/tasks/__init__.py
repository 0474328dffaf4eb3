"""Vision tasks by name: ``open_task("detection", store).run([image])``."""

from cloud_server.tasks.base import Image, Task
from cloud_server.tasks.registry import open_task, task_names

__all__ = ["Image", "Task", "open_task", "task_names"]
