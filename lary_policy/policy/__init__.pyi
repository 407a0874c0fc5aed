from .card import local_card as local_card
from .configuration_lary import LaryConfig as LaryConfig
from .encoder_config import EncoderConfig as EncoderConfig
from .modeling_lary import LaryPolicy as LaryPolicy
from .processor_lary import make_lary_pre_post_processors as make_lary_pre_post_processors
