"""Questions with candidates: multiple choice by likelihood, and inference (NLI) by a classifier."""
