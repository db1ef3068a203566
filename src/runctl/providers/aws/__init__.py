"""EC2, S3, SSM and IAM through boto3, for AWS and for the sandbox alike."""
