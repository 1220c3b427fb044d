"""tallymarkd as a service: its units, and ``tallymark service``."""
