"""events -> items, users, user_histories, sessions: cleaning, the one global split, ids, sessions, histories."""
