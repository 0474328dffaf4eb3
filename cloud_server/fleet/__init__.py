"""Devices as an operator sees them, and the commands that they get.

commands   commands in the database: checked, issued, superseded, answered
audit      who did what; what is forgotten of it and of the commands
registry   devices in memory: who is online, what they do, who watches
quota      how much one device may send
fleet      all of it: what streams report, what operators ask
refusals   what was refused, in the audit
words      commands and the audit, for people
documents  devices and commands, for programs
servicer   FleetService
client     FleetClient, and AsyncFleetClient: an operator's end
"""
