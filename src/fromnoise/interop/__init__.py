"""Other people's files: what is trained here in the form that other libraries read."""

from fromnoise.interop.diffusers import unet_config, unet_state_dict

__all__ = ["unet_config", "unet_state_dict"]
