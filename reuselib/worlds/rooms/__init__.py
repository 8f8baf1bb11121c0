"""BoxRooms-32: rendered rooms with exact labels for seventeen tasks, the world of the chapters on transferability.

Every image is a box room with one to four solids, seen by a camera that stands in it: 32x32 pixels, one ray for each,
textures, one point light, hard shadows. The scene is known, so every label is exact. `rooms` gives a split with its
labels, `collage` and `noise` are probe images from elsewhere, `closeups` are single solids in two domains, `gallery`
shows all labels of a few images.
"""

from reuselib.worlds.rooms.pictures import gallery
from reuselib.worlds.rooms.probes import closeups, collage, noise, room_collage
from reuselib.worlds.rooms.render import KINDS, Hits
from reuselib.worlds.rooms.room_set import CLOSEUP_SPLITS, DOMAINS, SIZE, SPLITS, RoomSet, inputs, rooms, with_masks
from reuselib.worlds.rooms.scene import MATERIALS, ROOMS, SHAPES, Scenes
from reuselib.worlds.rooms.tasks import GROUPS, TASKS, Task, losses, task

__all__ = ["CLOSEUP_SPLITS", "closeups", "collage", "DOMAINS", "gallery", "GROUPS", "Hits", "inputs", "KINDS"]
__all__ += ["losses", "MATERIALS", "noise", "room_collage", "ROOMS", "rooms", "RoomSet", "Scenes", "SHAPES", "SIZE"]
__all__ += ["SPLITS", "Task", "task", "TASKS", "with_masks"]
