from .actions import load_embodiment as load_embodiment
from .data import Source as Source
from .data import open_source as open_source
from .data import register_source as register_source
from .encoders import EncoderSpec as EncoderSpec
from .encoders import EncoderView as EncoderView
from .encoders import FrameEncoder as FrameEncoder
from .encoders import LatentEncoder as LatentEncoder
from .encoders import Preprocess as Preprocess
from .encoders import WeightsSource as WeightsSource
from .encoders import list_encoders as list_encoders
from .encoders import load_encoder as load_encoder
from .encoders import register_encoder as register_encoder
from .errors import LaryPolicyError as LaryPolicyError
from .heads.training import fit as fit
from .latents import LatentStore as LatentStore
from .runs import RunConfig as RunConfig
from .runs import run_suite as run_suite
from .scores import Score as Score

__version__: str
