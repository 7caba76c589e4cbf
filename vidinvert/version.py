"""The version of both packages, read by the build too."""

VERSION = "0.1.0"
