"""SGLang's rules against its own start-up logs."""
