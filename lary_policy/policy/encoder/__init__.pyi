from .observation import ObservationEncoder as ObservationEncoder
from .state import load_exactly as load_exactly
from .training import ATTENTION as ATTENTION
from .views import arrange as arrange
from .views import camera_images as camera_images
from .views import encode_views as encode_views
from .views import seen_shape as seen_shape
