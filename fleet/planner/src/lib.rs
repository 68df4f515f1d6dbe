//! Decides which nodes a fleet needs. Pure: values in, values out; time, randomness and files come from outside.
