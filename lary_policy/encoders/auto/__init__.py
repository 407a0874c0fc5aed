"""`auto:<model>`: encoders from a folder or hub name of timm and transformers."""
