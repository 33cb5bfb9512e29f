"""`python -m wbc_diffusers`, and so `accelerate launch -m wbc_diffusers generate ...`."""

from wbc_diffusers.cli import main

if __name__ == "__main__":
    main()
