"""The specs that ship with the package: `synth prove-and-run attention` finds attention.toml here."""
