//! The launch page's way through the edge.
