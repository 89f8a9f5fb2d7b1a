"""How long tests wait for what must happen: far longer than it ever takes, for the machine may be busy."""

PATIENT_SECONDS = 60.0
