"""What is learned, apart from how: tables spread over ranks and the models made of them. Torch, no input or output."""
