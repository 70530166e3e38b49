"""Import weights of other programs and export weights to other libraries."""

from fromnoise.interop.diffusers import unet_config, unet_state_dict
from fromnoise.interop.export import export_model
from fromnoise.interop.formats import FORMATS, import_model
