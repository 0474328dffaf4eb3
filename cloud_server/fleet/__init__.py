"""Devices as an operator sees them, and what he tells them.

tables     devices, commands, the audit
records    commands and audit entries as values
orders     commands in the database: issued, superseded, answered
registry   devices in memory: who is online, what they do, who watches
quota      how much one device may send
audit      who did what
servicer   FleetService
"""
