"""One exact rewrite a file; `lavit_deploy.folding.fold` puts them in order."""
