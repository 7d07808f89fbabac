"""The search: proposers write candidates, the gate answers, the archive learns."""
