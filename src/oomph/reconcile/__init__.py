"""Reading what engines, torch and drivers say of memory, and holding it against an estimate."""
