"""What a transport and a store of the same backend share: the connection, the state, the bell."""
