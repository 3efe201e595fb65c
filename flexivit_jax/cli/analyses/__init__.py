"""The subcommands of flexivit_jax.cli.analysis, a module each."""
