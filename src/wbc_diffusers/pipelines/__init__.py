import diffusers

from wbc_diffusers.models.r2_attn_unet import R2AttnUNet
from wbc_diffusers.models.wbc_discriminator import WBCDiscriminator
from wbc_diffusers.models.wbc_generator import WBCGenerator
from wbc_diffusers.pipelines.pretrained import WBCDDIMPipeline, WBCGANPipeline, load_pipeline
from wbc_diffusers.schedulers.scheduling_sigmoid_ddim import SigmoidDDIMScheduler

# from_config of diffusers' own schedulers is silent about options of a class that it finds here.
diffusers.SigmoidDDIMScheduler = SigmoidDDIMScheduler

__all__ = [
    "R2AttnUNet",
    "SigmoidDDIMScheduler",
    "WBCDDIMPipeline",
    "WBCDiscriminator",
    "WBCGANPipeline",
    "WBCGenerator",
    "load_pipeline",
]
