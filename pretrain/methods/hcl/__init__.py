"""The HCL branch: its settings, the distances it can use, and the branch itself."""
