"""accelerate launch training/train_classifier.py --config FILE --data DIR --output DIR [any field as an override]."""

from wbc_diffusers.cli.train import main

if __name__ == "__main__":
    main()
