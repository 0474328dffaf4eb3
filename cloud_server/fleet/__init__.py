"""Devices as an operator sees them, and what he tells them.

tables     devices, commands, the audit
orders     commands in the database: issued, superseded, answered
registry   devices in memory: who is online, what they do, who watches
quota      how much one device may send
audit      who did what
fleet      all of it: what streams tell, what operators ask
checks     what operators ask, checked
servicer   FleetService
client     an operator's view
"""
