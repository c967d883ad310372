//! Sans-IO presence workflow for adsum: dialects as state machines, formats, markers, expectations
