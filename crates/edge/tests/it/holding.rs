//! A cold app: who waits, who gets the launch page, and who left meanwhile.
