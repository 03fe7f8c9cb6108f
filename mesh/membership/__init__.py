"""Membership: credentials, invitations, revocations."""
