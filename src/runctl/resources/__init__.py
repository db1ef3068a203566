"""What a user does with instances, volumes and snapshots; each operation on several is a transaction."""
