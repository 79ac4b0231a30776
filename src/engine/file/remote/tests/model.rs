//! Random verbs against a store that delays, reorders and loses answers: once everything is drained, the bucket is the tree.

use super::*;
