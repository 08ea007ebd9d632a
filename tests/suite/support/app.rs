//! An app behind the sidecar: tells what reached it, and answers as the request asks it to.
