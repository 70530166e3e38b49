"""Other people's files: what is trained here in the form that other libraries read, and theirs."""

from fromnoise.interop.diffusers import unet_config, unet_state_dict
from fromnoise.interop.formats import FORMATS, import_model

__all__ = ["FORMATS", "import_model", "unet_config", "unet_state_dict"]
