"""ExLlamaV2 and ExLlamaV3, as TabbyAPI or their own loaders start them: layers fill one GPU after the other."""
