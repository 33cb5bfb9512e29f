import diffusers

from wbc_diffusers.models.r2_attn_unet import R2AttnUNet
from wbc_diffusers.models.wbc_discriminator import WBCDiscriminator
from wbc_diffusers.models.wbc_generator import WBCGenerator
from wbc_diffusers.pipelines.pretrained import WBCDDIMPipeline, WBCGANPipeline, load_pipeline
from wbc_diffusers.schedulers.scheduling_sigmoid_ddim import SigmoidDDIMScheduler

# diffusers finds the components that a model_index.json names among the modules already imported (hence the models
# and the scheduler above), and the pipeline's class among its own attributes: with it there,
# DiffusionPipeline.from_pretrained loads our folders wherever this package's pipelines have been imported.
diffusers.WBCDDIMPipeline = WBCDDIMPipeline
diffusers.WBCGANPipeline = WBCGANPipeline
# Likewise from_config of its schedulers: it is silent about options of a class that it finds there.
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
