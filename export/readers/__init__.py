"""Model files of every form as graphs of terms; no network is known here."""
