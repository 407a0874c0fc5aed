from .images import STILL as STILL
from .observation import ObservationEncoder as ObservationEncoder
from .observation import arrange as arrange
from .observation import camera_images as camera_images
from .observation import encode_views as encode_views
from .observation import seen_shape as seen_shape
from .state import load_exactly as load_exactly
from .training import ATTENTION as ATTENTION
