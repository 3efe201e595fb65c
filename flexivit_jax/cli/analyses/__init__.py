"""The subcommands of `flexivit analysis`, a module each."""
