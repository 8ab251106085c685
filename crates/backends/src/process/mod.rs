//! Runs instances as local processes, each under a shim that outlives the server.
